// All fuzzers read their input the same way: an image, whose last byte may say that the file is sparse and far longer
// than its bytes, so that claims about sizes are believed as far as a file could back them.

public import DiskTypes

/// Fuzzer input as a file.
public struct FuzzImage: ByteSource {
    let bytes: [UInt8]
    public let length: UInt64

    public init(_ data: UnsafePointer<UInt8>, _ count: Int) {
        bytes = Array(UnsafeBufferPointer(start: data, count: count))
        let stretch = UInt64(bytes.last ?? 0) & 0x7f
        length = (20...62).contains(stretch) ? max(1 << stretch, UInt64(count)) : UInt64(count)
    }

    public func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        guard offset.bytes < length, count > 0 else { return [] }
        let wanted = Int(min(UInt64(count), length - offset.bytes))
        var out: [UInt8] = []
        out.reserveCapacity(wanted)
        if offset.bytes < UInt64(bytes.count) {
            let start = Int(offset.bytes)
            out += bytes[start..<min(bytes.count, start + wanted)]
        }
        out += repeatElement(0, count: wanted - out.count)
        return out
    }
}

/// What must hold; a fuzzer stops where it does not.
public func require(_ condition: Bool, _ what: @autoclosure () -> String) {
    if !condition { fatalError("broken promise: \(what())") }
}
