"""Commands: `jaxmlip train | evaluate | md | relax | demo | info`. Only here are configurations and global settings."""
