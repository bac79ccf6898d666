"""The first thing a newcomer sees, and the pictures that it draws."""
