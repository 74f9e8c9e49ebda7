// `extents` prints runs, not table entries: what continues is merged, exactly as far as qemu-img map merges it.
// Nothing is collected, so that a disk of petabytes costs no memory.

public import DiskTypes
public import ImageChain

/// The runs of a range of a chain, one after the other.
public struct ExtentList {
    private var reader: StatusReader
    private var cursor: UInt64
    private let end: UInt64
    private var ahead: BlockStatus?

    /// The runs of `length` bytes from `start` on, as far as the disk goes.
    public init(_ chain: ImageChain, start: UInt64 = 0, length: UInt64 = .max) {
        reader = StatusReader(chain)
        cursor = min(start, chain.size)
        end = cursor + min(length, chain.size - cursor)
    }

    /// The next run; nil after the last.
    public mutating func next() throws(ImageError) -> BlockStatus? {
        if ahead == nil { ahead = try step() }
        guard var run = ahead else { return nil }
        ahead = nil
        while let more = try step() {
            guard run.continues(into: more) else {
                ahead = more
                break
            }
            run.length += more.length
        }
        return run
    }

    private mutating func step() throws(ImageError) -> BlockStatus? {
        guard cursor < end else { return nil }
        let status = try reader.status(at: cursor, length: end - cursor)
        cursor += status.length
        return status
    }
}
