"""What the product can do, and every rule about state. Doors call it; it calls the store."""
