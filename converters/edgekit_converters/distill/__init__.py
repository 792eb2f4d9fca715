"""Teach a small student what the teacher knows."""
