// Why this file exists: the name of a backing file counts from the folder of the image that names it. The result is
// what messages and `info` show, so it is put together exactly as QEMU does.

/// The name to open for a name found in an image.
package enum BackingName {
    /// `reference` seen from the image `path`. Absolute names and names with a protocol (`nbd:...`) stay as they are.
    package static func full(_ reference: String, in path: String) -> String {
        guard !reference.hasPrefix("/"), !hasProtocol(reference), let slash = path.lastIndex(of: "/") else {
            return reference
        }
        return path[...slash] + reference
    }

    /// Whether QEMU reads the name as `protocol:rest`: a colon before any slash.
    package static func hasProtocol(_ name: String) -> Bool {
        guard let colon = name.firstIndex(of: ":") else { return false }
        return !name[..<colon].contains("/")
    }
}
