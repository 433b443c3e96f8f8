"""`loopserve diagnose`: what each loop gains on a text and what its offset costs."""
