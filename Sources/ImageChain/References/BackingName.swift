// The name of a backing or data file as it stands in a header, and the file that QEMU takes it for: a plain name, a plain
// name behind `file:`, or options in JSON that come to the same. What is shown is put together exactly as QEMU does.

package import DiskTypes
import LinuxIO
package import SystemPackage

/// The name to open for a name found in an image.
package enum BackingName {
    /// `reference` as `info` shows it, seen from the image `path`: absolute names and names with a protocol (`file:...`,
    /// `json:...`) stay as they are.
    package static func full(_ reference: FileName, in path: FilePath) -> FileName {
        let image = path.bytes
        guard !reference.hasPrefix("/"), !hasProtocol(reference), let slash = image.lastIndex(of: UInt8(ascii: "/"))
        else { return reference }
        return FileName(image[...slash] + reference.bytes)
    }

    /// Whether QEMU reads the name as `protocol:rest`: a colon before any slash.
    package static func hasProtocol(_ name: FileName) -> Bool {
        name.bytes.first { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "/") } == UInt8(ascii: ":")
    }
}

/// What a name in a header leads to.
package struct Reference: Equatable, Sendable {
    /// Bytes of the path, without any protocol.
    package var name: FileName
    /// A relative name counts from the process's working folder (behind `file:` and in JSON), not from the image's.
    package var isFromWorkingFolder: Bool
    /// The driver that JSON names. The format that the header gives beside the name goes before it, as with QEMU.
    package var format: ImageFormat?

    /// Reads a name as QEMU does; `header` is the format that stands beside it. Whatever is not a plain file of this host
    /// is an error of kind `.reference`.
    package init(_ text: FileName, header: String?, role: String) throws(ImageError) {
        if text.hasPrefix("json:") {
            let options = try JSONReference(text.bytes.dropFirst("json:".utf8.count), header: header, role: role)
            self.init(name: options.filename, isFromWorkingFolder: true, format: options.format)
        } else if text.hasPrefix("file:") {
            self.init(name: FileName(text.bytes.dropFirst("file:".utf8.count)), isFromWorkingFolder: true, format: nil)
        } else if BackingName.hasProtocol(text) {
            throw ImageError(
                .reference, "the \(role) \"\(text)\" is not a plain file name",
                advice: "only files are opened; rebase the image onto one")
        } else {
            self.init(name: text, isFromWorkingFolder: false, format: nil)
        }
        guard !name.isEmpty, !name.bytes.contains(0) else {
            throw .malformed("the \(role) name is empty or contains a NUL byte")
        }
    }

    private init(name: FileName, isFromWorkingFolder: Bool, format: ImageFormat?) {
        self.name = name
        self.isFromWorkingFolder = isFromWorkingFolder
        self.format = format
    }
}
