"""Expressions: values, calls and their evaluation."""
