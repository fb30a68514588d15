"""The words of the product: plain values, standard library only."""
