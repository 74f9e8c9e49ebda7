// One shape for everything that can be wrong with an image, so that each reaches the user as one line: what is wrong,
// where, what to do. A guest gets its number instead.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// An image that cannot be used as asked. `description` is the line the user sees, without the image's name.
public struct ImageError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What sort of error it is: callers act on it.
    public enum Kind: Sendable {
        /// The bytes break the format.
        case malformed
        /// The format is right but asks for something this program cannot do (yet).
        case unsupported
        /// The image needs a file that policy forbids or that is not there.
        case reference
        /// The file is held by another process.
        case locked
        /// The system refused: open, read, write.
        case system
        /// The caller asked for something the image does not have (a snapshot, a range).
        case notFound
    }
    /// What sort of error it is.
    public let kind: Kind
    /// What is wrong.
    public let what: String
    /// Where in the file, if a place is known.
    public let at: HostOffset?
    /// What to do about it, if anything helps.
    public let advice: String?
    /// The image it was found in, filled in by the caller that opened it.
    public var path: FileName?
    /// The errno with which the system refused, if it was the system.
    public let number: Int32?
    /// The errno that answers a kernel or a guest whose request met this error: the system's own number, or EIO where the
    /// image itself is at fault.
    public var answer: Int32 { number ?? EIO }

    /// An error with `what` as its first words. `number`: the errno, where a system call failed.
    public init(
        _ kind: Kind, _ what: String, at: HostOffset? = nil, advice: String? = nil, path: FileName? = nil,
        number: Int32? = nil
    ) {
        self.kind = kind
        self.what = what
        self.at = at
        self.advice = advice
        self.path = path
        self.number = number
    }

    /// An error about bytes that break the format.
    public static func malformed(_ what: String, at: HostOffset? = nil, advice: String? = nil) -> ImageError {
        ImageError(.malformed, what, at: at, advice: advice)
    }
    /// An error about a valid image that this program cannot use as asked.
    public static func unsupported(_ what: String, advice: String? = nil) -> ImageError {
        ImageError(.unsupported, what, advice: advice)
    }

    /// The same error, said of the file at `path`, unless a deeper file is named already.
    public func named(_ path: FileName) -> ImageError {
        var copy = self
        if copy.path == nil { copy.path = path }
        return copy
    }

    /// The same error, said of what is called `name`: a device, a map.
    public func named(_ name: String) -> ImageError { named(FileName(name)) }

    /// `what (file offset 0x10000): advice`, without the image's name.
    public var description: String {
        var line = what
        if let at { line += " (\(at))" }
        if let advice { line += ": \(advice)" }
        return line
    }
}
