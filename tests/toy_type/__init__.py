"""A block type that does not exist, added as CONTRIBUTING.md says: test_new_type.py puts each file in place."""
