//! scumble-cpu
