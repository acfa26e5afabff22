"""Bridges between the store and the formats that people have, and between stores."""
