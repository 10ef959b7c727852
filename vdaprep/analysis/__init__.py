"""What converted shards are worth: verify, inspect, statistics, pictures, export."""
