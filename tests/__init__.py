"""Tests and what they share. The file makes this a regular package: a dependency of schemathesis installs one named `tests` too."""
