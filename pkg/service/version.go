package service

import "runtime/debug"

// Version is what a build says of itself: what it was built with, or else what Go
// knows.
func Version(version, commit string) string {
	if version != "" && commit != "" {
		return version + " (" + commit + ")"
	}
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
