"""Turns the text of a program into a trusted number. Imports none of the other packages."""
