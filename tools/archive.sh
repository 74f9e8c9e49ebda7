# Where this machine gets Debian bookworm from: other suites of the same archive are asked for there, so that no host
# stands in any file of the project.
# shellcheck shell=bash

# Prints the archive's address, from either form of apt's configuration; nothing when apt has no bookworm.
archive_uri() {
	local files=(/etc/apt/sources.list.d/*.sources)
	{
		[ ! -e "${files[0]}" ] ||
			awk '/^$/ { uri = "" } /^URIs:/ { uri = $2 } /^Suites:/ && / bookworm( |$)/ { print uri }' "${files[@]}"
		# Either form may have no file at all; no match is the caller's error to report.
		cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
			sed -nE 's/^deb +(\[[^]]*\] +)?([^ ]+) +bookworm .*/\2/p' || true
	} | sed -n 1p
}
