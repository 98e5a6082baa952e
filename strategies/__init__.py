"""One file a strategy; ``base`` holds the contract and finds them."""
