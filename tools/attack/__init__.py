"""Attacks a server from outside, over the wire: hostile inputs, mutations, disconnects; and exactness over HTTP."""
