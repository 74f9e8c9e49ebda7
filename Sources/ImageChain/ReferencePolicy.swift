// Why this file exists: the names of backing and data files come from the image, and an image from a stranger may
// name /etc/shadow, a URL or a FIFO. Here is decided which of them are opened at all.

package import DiskTypes
import Glibc

/// Where files that an image refers to may lie: the folder of the image that was asked for, and what the user allows.
package struct ReferencePolicy: Sendable {
    private let folders: [String]

    /// `image` is the name the user gave. Both the folder of that name and, where it is a link, the folder of the
    /// file itself count as the image's own.
    package init(image: String, allowed: [String]) {
        var roots = [Self.folder(of: image)]
        if let real = Self.realPath(image) { roots.append(Self.folder(of: real)) }
        folders = (roots + allowed).compactMap(Self.realPath)
    }

    /// The name to open for `reference`, found in the image `path`. Relative names count from that image's folder.
    package func resolve(_ reference: String, from path: String, role: String) throws(ImageError) -> String {
        let shown = printable(reference)
        guard !reference.isEmpty, !reference.utf8.contains(0) else {
            throw .malformed("the \(role) name is empty or contains a NUL byte")
        }
        if BackingName.hasProtocol(reference) {
            throw ImageError(
                .reference, "the \(role) \"\(shown)\" is not a plain file name",
                advice: "only files are opened; rebase the image onto one")
        }
        let name = BackingName.full(reference, in: path)
        // Outside the folder, whether the file exists is nobody's business.
        let real = Self.realPath(name)
        guard isAllowed(real ?? Self.missingPath(name)) else {
            throw ImageError(
                .reference, "the \(role) \"\(shown)\" lies outside the image's folder",
                advice: "say --allow-path \(printable(Self.folder(of: real ?? name))) if you trust it")
        }
        guard real != nil else {
            throw ImageError(
                .reference, "the \(role) \"\(shown)\" is not there", advice: "looked for \(printable(name))")
        }
        return name
    }

    /// Holds the file that was really opened against the policy: names can change between check and open.
    package func confirm(descriptor: Int32, role: String) throws(ImageError) {
        guard let real = Self.linkTarget("/proc/self/fd/\(descriptor)"), isAllowed(real) else {
            throw ImageError(.reference, "the \(role) moved outside the image's folder while it was opened")
        }
    }

    private func isAllowed(_ real: String) -> Bool {
        folders.contains { $0 == "/" || real.hasPrefix($0 + "/") }
    }

    static func folder(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    static func realPath(_ path: String) -> String? {
        guard let real = realpath(path, nil) else { return nil }
        defer { free(real) }
        return String(cString: real)
    }

    /// Where a file that does not exist would be: its folder without links, or "" where that is not there either.
    private static func missingPath(_ name: String) -> String {
        guard let folder = realPath(folder(of: name)) else { return "" }
        return folder + "/" + (name.split(separator: "/").last ?? "")
    }

    static func linkTarget(_ path: String) -> String? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
        let count = readlink(path, &buffer, buffer.count - 1)
        guard count > 0 else { return nil }
        return String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

}
