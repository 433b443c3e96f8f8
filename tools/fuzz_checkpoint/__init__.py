"""Damages model directories at random and looks at what loading them does."""
