"""The tables of floats on which decisions are made, and how they are kept, read and compiled."""
