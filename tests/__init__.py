"""Tests, and what they share. A package with a file of its own: a dependency of a judge installs one of the same name."""
