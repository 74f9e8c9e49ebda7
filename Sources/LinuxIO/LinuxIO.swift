// The target LinuxIO.
