"""The zoo: models of all kinds from public libraries, each cut everywhere and compared with itself in one piece."""
