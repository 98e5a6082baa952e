"""Shared by strategies of several families."""
