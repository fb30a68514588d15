"""Keys, sealed secrets, and the guards on where the server may go."""
