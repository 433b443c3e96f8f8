"""Small changes to the scheduler, one at a time: do the tests notice?"""
