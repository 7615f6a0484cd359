"""What is noted of every call: its trail, the metrics, the logs; observers that never break a call."""
