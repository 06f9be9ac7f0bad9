"""What a cut, codecs and a staleness bound will cost."""
