"""Which clients work with loopserve, proven by running them: make compatibility writes docs/compatibility.md."""
