"""PPO, of ppo-slim (``training``) and of ppo-paper (``paper``), by stable-baselines3."""
