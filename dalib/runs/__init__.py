"""Recipes, runs and run folders."""
