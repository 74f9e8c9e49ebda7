# Shared by the get-* tools: Debian packages as plain files, without installing them.
# shellcheck shell=bash source-path=SCRIPTDIR

. "$GUEST_DIR/../archive.sh"

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

# use_suite SUITE FOLDER: from here on apt-cache and apt-get see that suite of the same archive and nothing else. Its
# lists lie in FOLDER, so the machine's own package lists, and what it would upgrade to, stay as they are.
use_suite() {
	local suite=$1 folder=$2 uri
	uri=$(archive_uri)
	[ -n "$uri" ] || die "no source of Debian bookworm in /etc/apt to take $suite from"
	mkdir -p "$folder/sources" "$folder/lists/partial" "$folder/cache/archives/partial"
	printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$uri" "$suite" \
		/usr/share/keyrings/debian-archive-keyring.gpg >"$folder/sources/suite.sources"
	cat >"$folder/apt.conf" <<-END
		Dir::Etc::SourceList "/dev/null";
		Dir::Etc::SourceParts "$folder/sources";
		Dir::State::Lists "$folder/lists";
		Dir::Cache "$folder/cache";
	END
	export APT_CONFIG=$folder/apt.conf
	apt-get update -qq >"$folder/update" 2>&1 || die "cannot read the package lists of $suite: $(tail -n 1 "$folder/update")"
}
