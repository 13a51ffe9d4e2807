"""`karoo doctor`: what stands in the way of mining, found before the miners do."""
