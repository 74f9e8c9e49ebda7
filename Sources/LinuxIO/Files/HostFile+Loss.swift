// A file that is cut while it is in use has lost bytes, and what the system says of that range then looks like a hole.
// Code that takes "no data here" for zeros asks here first.
public import DiskTypes
import Glibc

extension HostFile {
    /// Bytes that the file has for certain unless another program has cut it. Grows with what is written through this object.
    public var assuredLength: UInt64 { leastLength.load(ordering: .relaxed) }

    /// Throws when bytes before `end` are gone that the file had when it was opened, or got since through this object.
    /// To be asked after the answer that is to be believed: a file that is whole then was whole before.
    public func requireBytes(upTo end: UInt64 = .max) throws(ImageError) {
        let least = leastLength.load(ordering: .relaxed)
        let present = try presentLength()
        guard present < min(end, least) else { return }
        throw ImageError(
            .malformed, "the file was cut while it was in use: it had \(least) bytes and has \(present)",
            advice: "its end is lost", path: path, number: EIO)
    }
}
