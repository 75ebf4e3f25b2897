//! Named scenarios: each one thing that must hold, and every seed that ever failed.
