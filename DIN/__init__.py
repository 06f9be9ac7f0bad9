"""Click prediction by owners of different parts of the same users' histories, and a server with the top model."""
