# Shared by the get-* tools: Debian packages as plain files, without installing them.
# shellcheck shell=bash

die() {
	say "$*"
	exit 1
}

# download_package PACKAGE[=VERSION] FILE: through the machine's own apt sources; the lists are brought up to date
# only when they do not know the package.
download_package() {
	local package=$1 file=$2 folder=$2.part
	[ ! -e "$file" ] || return 0
	rm -rf "$folder"
	mkdir -p "$folder"
	say "downloading $package"
	try_download "$package" "$folder" || {
		apt-get update -qq >/dev/null 2>&1 || true
		try_download "$package" "$folder"
	} || die "cannot download $package: $(grep -m1 '^E:' "$folder/errors" || tail -n 1 "$folder/errors")"
	mv "$folder"/*.deb "$file"
	rm -r "$folder"
}

try_download() {
	(cd "$2" && apt-get download -q -o APT::Sandbox::User=root "$1" >/dev/null 2>errors)
}
