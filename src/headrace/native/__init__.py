"""What is too slow in Python and in SQL: going over text byte by byte. C, built by set-up."""
