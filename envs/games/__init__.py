"""Games that come with maicc: level-based foraging, battles on SMAX and StarCraft II."""
