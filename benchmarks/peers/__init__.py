"""How good is int8 of other tools on the same model, at their defaults and tuned as their documentation allows?"""
