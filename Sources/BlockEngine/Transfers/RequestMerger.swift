// A guest that reads a file sends its requests in a row, and most of their bytes are neighbours on the host too. Requests
// of one batch that continue each other become one transfer: fewer calls into the file system in memory, larger I/O on a
// disk. A transfer that ends otherwise than whole is taken apart again, request by request.

/// Requests, each one plain range, whose bytes follow each other in one file. Not sent yet.
@safe struct RequestMerger: BitwiseCopyable {
    /// The most requests of one transfer.
    static let requestLimit = 64
    /// The most bytes of one transfer.
    static let byteLimit = 1 << 20

    private let members: UnsafeMutablePointer<RequestIndex>
    private(set) var count = 0
    /// Where in the file the first one begins.
    private(set) var host: UInt64 = 0
    /// Where the next one must begin.
    private var end: UInt64 = 0
    private var isWrite = false

    init() { unsafe members = unsafe slab(RequestMerger.requestLimit, of: .none) }
    func free() { unsafe members.deallocate() }

    /// All bytes of the gathered requests.
    @inline(__always) var length: Int { Int(truncatingIfNeeded: end &- host) }
    @inline(__always) subscript(_ position: Int) -> RequestIndex { unsafe members[position] }

    /// Gathers a request. False: it does not continue those that are there, which must be sent first.
    @inline(__always) mutating func add(
        _ request: RequestIndex, host next: UInt64, length: Int, isWrite nextIsWrite: Bool
    ) -> Bool {
        if count > 0 {
            let fits =
                next == end && nextIsWrite == isWrite && count < RequestMerger.requestLimit
                && next &+ UInt64(truncatingIfNeeded: length) &- host <= UInt64(RequestMerger.byteLimit)
            guard fits else { return false }
            unsafe members[count] = request
            count &+= 1
            end = next &+ UInt64(truncatingIfNeeded: length)
            return true
        }
        unsafe members[0] = request
        count = 1
        host = next
        end = next &+ UInt64(truncatingIfNeeded: length)
        isWrite = nextIsWrite
        return true
    }

    /// They are taken out, and can be read until the next one is added; how many they are.
    @inline(__always) mutating func take() -> Int {
        let taken = count
        count = 0
        return taken
    }
}
