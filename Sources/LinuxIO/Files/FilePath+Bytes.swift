// Paths are bytes, from the command line to the kernel. A FilePath keeps them; these are the ways in and out that do,
// and the only ones used: its `string`, and a String made of it in any other way, would change bytes that are not UTF-8.
public import DiskTypes
public import SystemPackage

extension FilePath {
    /// The path that these bytes name; nil when they have a NUL, which no path can have.
    ///
    /// FilePath drops a slash at the end, which means something to the kernel: `file/` is no file. It becomes `file/.`,
    /// which means the same.
    public init?(bytes: some Sequence<UInt8>) {
        var text = bytes.map { CChar(bitPattern: $0) }
        guard !text.contains(0) else { return nil }
        let slash = CChar(bitPattern: UInt8(ascii: "/"))
        if text.last == slash, text.contains(where: { $0 != slash }) {
            text.append(CChar(bitPattern: UInt8(ascii: ".")))
        }
        self.init(platformString: text + [0])
    }

    /// The path in these bytes, nil where they have a NUL.
    public init?(_ name: FileName) { self.init(bytes: name.bytes) }

    /// The path's bytes, without a terminator.
    public var bytes: [UInt8] {
        unsafe withPlatformString { text in
            unsafe Array(UnsafeRawBufferPointer(start: text, count: length))
        }
    }

    /// The path's bytes as a name, for messages and records.
    public var name: FileName { FileName(bytes) }

    /// The folder that the path lies in, by its text alone: `.` for a bare name, `/` for the root.
    public var parent: FilePath {
        let above = removingLastComponent()
        return above.isEmpty ? "." : above
    }

    /// Whether the path is `folder` or lies below it, by its text alone.
    public func isBelow(_ folder: FilePath) -> Bool { self != folder && starts(with: folder) }

    /// The path followed by `text`, without a slash between.
    public func extended(_ text: String) -> FilePath { FilePath(bytes: bytes + text.utf8) ?? self }
}

/// A path put together in a literal, byte for byte: `"/sys/block/\(name)/size"`, `"\(folder)/lock"`.
extension FilePath: @retroactive ExpressibleByStringInterpolation {
    /// Gathers the bytes of the parts.
    public struct StringInterpolation: StringInterpolationProtocol {
        var bytes: [UInt8] = []

        /// No bytes yet.
        public init(literalCapacity: Int, interpolationCount: Int) {}
        /// Text of the literal, in UTF-8.
        public mutating func appendLiteral(_ text: String) { bytes += text.utf8 }
        /// A path, byte for byte.
        public mutating func appendInterpolation(_ path: FilePath) { bytes += path.bytes }
        /// Text, in UTF-8.
        public mutating func appendInterpolation(_ text: some StringProtocol) { bytes += text.utf8 }
        /// A number, in decimal digits.
        public mutating func appendInterpolation(_ number: some FixedWidthInteger) { bytes += String(number).utf8 }
    }

    /// A NUL among the parts, which no name has that is put together here, ends the path.
    public init(stringInterpolation: StringInterpolation) {
        self = FilePath(bytes: stringInterpolation.bytes.prefix { $0 != 0 }) ?? FilePath()
    }
}

extension DefaultStringInterpolation {
    /// A path in a message, for people: see `printable`.
    public mutating func appendInterpolation(_ path: FilePath) { appendInterpolation(printable(path)) }
}

/// A path for a terminal or a log.
public func printable(_ path: FilePath) -> String { printable(path.bytes) }

extension ImageError {
    /// An error about the file at `path`; see `ImageError.init`.
    public init(
        _ kind: Kind, _ what: String, at: HostOffset? = nil, advice: String? = nil, path: FilePath, number: Int32? = nil
    ) {
        self.init(kind, what, at: at, advice: advice, path: path.name, number: number)
    }

    /// The same error, said of the file at `path`, unless a deeper file is named already.
    public func named(_ path: FilePath) -> ImageError { named(path.name) }
}
