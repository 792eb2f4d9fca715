"""Engines behind one small interface; none of them is imported before it is opened."""

from edgekit_runtime.engines.base import Engine
from edgekit_runtime.engines.registry import ENGINES, EngineRow, choose_engine, get_engine, open_engine

__all__ = ["ENGINES", "Engine", "EngineRow", "choose_engine", "get_engine", "open_engine"]
