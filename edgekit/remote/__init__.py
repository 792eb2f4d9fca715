"""Boards and phones as lanes: a bundle is carried there, answers, and comes home as evidence; nothing stays."""
