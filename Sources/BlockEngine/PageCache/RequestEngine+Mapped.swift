// A page that the kernel has in memory is one copy away. A read copies it out of the mapping; a write
// lets the kernel copy from the file that the guest's memory is, into the mapping: unlike a write to the file it holds up
// no other writer, and unlike a copy of our own it cannot be cut short inside a sector by SIGKILL.
import Glibc
import LinuxIO

/// Reads whose pages are in memory wait in line for each other: then the processor can look for all their pages at once,
/// which takes longer than the rest of a request when it is done one by one.
struct MappedReadBatch: BitwiseCopyable {
    static let limit = 16
    /// Copies longer than this find their own way meanwhile.
    static let longest = 16 << 10
    let copies: UnsafeMutablePointer<PageCopy>
    let requests: UnsafeMutablePointer<RequestIndex>
    private(set) var count = 0

    init() {
        copies = slab(MappedReadBatch.limit, of: PageCopy())
        requests = slab(MappedReadBatch.limit, of: .none)
    }
    func free() {
        copies.deallocate()
        requests.deallocate()
    }

    @inline(__always) var isEmpty: Bool { count == 0 }
    @inline(__always) var isFull: Bool { count == MappedReadBatch.limit }

    @inline(__always) mutating func push(_ request: RequestIndex, _ copy: PageCopy) {
        copies[count] = copy
        requests[count] = request
        count &+= 1
    }
    @inline(__always) mutating func clear() { count = 0 }
}

extension RequestEngine {
    /// The longest copy that may keep others waiting.
    static var mappedCopyLimit: Int { 256 << 10 }

    /// Where the callers' memory comes from: writes of the page cache need it to go by its mapping. The descriptors must
    /// stay open until they are replaced.
    public func setGuestMemoryFiles(_ files: [GuestMemoryFile]) { sources.replace(files) }

    /// Reads bytes whose pages are in memory. False: nothing that counts was done.
    @inline(__always) func readMapped(
        _ file: UInt16, _ host: UInt64, _ base: UnsafeMutableRawPointer, _ length: Int
    ) -> Bool {
        let pages = files[file].pages
        guard pages.holds(host, length), length <= RequestEngine.mappedCopyLimit, mayTouch(file) else { return false }
        if pages.copy(host, to: base, length),
            !isCut(file, host, length, last: base.load(fromByteOffset: length &- 1, as: UInt8.self))
        {
            statistics.mapped &+= 1
            return true
        }
        files[file].window?._withUnsafeGuaranteedRef { $0.forget(host, UInt64(length)) }
        return false
    }

    /// Whether bytes that were copied out of a mapping may be zeros that stand behind the end of a file that was cut. `last`:
    /// the last of them; whatever else the file lost before it was no page any more.
    @inline(__always) func isCut(_ file: UInt16, _ host: UInt64, _ length: Int, last: UInt8) -> Bool {
        last == 0 && !reaches(file, host &+ UInt64(truncatingIfNeeded: length))
    }

    /// Whether the file is so long that it has the byte before `end`.
    @inline(never) private func reaches(_ file: UInt16, _ end: UInt64) -> Bool {
        files[file].window?._withUnsafeGuaranteedRef { $0.reaches(end) } ?? false
    }

    /// Takes a whole request in whose pages are in memory; it is copied by `nextFinished` at the latest. False: nothing
    /// was done.
    @inline(__always) func copySoon(
        _ host: UInt64, _ base: UnsafeMutableRawPointer, _ length: Int, _ request: RequestIndex
    ) -> Bool {
        let pages = files[plainFile].pages
        guard pages.holds(host, length) else { return false }
        guard length <= MappedReadBatch.longest else { return copyNow(host, base, length, request) }
        guard mayTouch(plainFile) else { return false }
        copies.push(request, PageCopy(from: pages, host, to: base, length))
        if copies.isFull { copyAll() }
        return true
    }

    @inline(never) private func copyNow(
        _ host: UInt64, _ base: UnsafeMutableRawPointer, _ length: Int, _ request: RequestIndex
    ) -> Bool {
        guard moveTogether(request, at: 0, length, plainFile, host) || readMapped(plainFile, host, base, length) else {
            return false
        }
        finish(request)
        return true
    }

    /// Copies what waits in line.
    @inline(never) func copyAll() {
        let count = copies.count
        copies.clear()
        var first = 0
        while first < count {
            let done = PageCopy.run(copies.copies + first, count &- first)
            let end = lastByteInDoubt(first, done)
            if end == 0 || reaches(plainFile, end) {
                for i in 0..<done { finish(copies.requests[first &+ i]) }
                statistics.mapped &+= UInt64(truncatingIfNeeded: done)
            } else {
                for i in 0..<done { lost(copies.requests[first &+ i]) }
            }
            first &+= done
            if first < count {
                lost(copies.requests[first])
                first &+= 1
            }
        }
    }

    /// The position in the file up to which it must reach for `count` copies to be its bytes; 0: they are for certain.
    @inline(__always) private func lastByteInDoubt(_ first: Int, _ count: Int) -> UInt64 {
        var end: UInt64 = 0
        for i in first..<first &+ count where copies.copies[i].endsInZero {
            end = max(end, copies.copies[i].end(in: files[plainFile].pages))
        }
        return end
    }

    /// The file does not have the bytes of a request any more: the request asks for them again and gets the reason.
    private func lost(_ request: RequestIndex) {
        files[plainFile].window?._withUnsafeGuaranteedRef { $0.forgetAll() }
        beginAdvance(request)
    }

    /// Writes to pages that are in memory. False: not all of it was done.
    @inline(__always) func writeMapped(_ host: UInt64, _ base: UnsafeRawPointer, _ length: Int) -> Bool {
        let pages = files[plainFile].pages
        // Pieces of a copy end between the pages of the caller's memory: that must not be inside a sector.
        guard length <= files[plainFile].mappedWrite, UInt(bitPattern: base) & 511 == 0, host & 511 == 0,
            let source = sources.find(base, length), mayTouch(plainFile)
        else { return false }
        if !pages.holds(host, length) {
            // A write to the file would do to make them known, but with large folios it takes longer than all of this.
            guard look(plainFile, host, length) else { return false }
        }
        let place = pages.base + Int(truncatingIfNeeded: host)
        guard pread(source.fd, place, length, off_t(truncatingIfNeeded: source.offset)) == length else {
            files[plainFile].window?._withUnsafeGuaranteedRef { $0.forget(host, UInt64(length)) }
            suspectCut()
            return false
        }
        statistics.mapped &+= 1
        return true
    }

    @inline(__always) private func mayTouch(_ file: UInt16) -> Bool {
        switch faults.ask() {
        case .calm: return true
        case .paused: return false
        case .waited:
            files[file].window?._withUnsafeGuaranteedRef { $0.forgetAll() }
            return false
        }
    }

    /// A transfer between the file and memory went well: its pages may be in memory now.
    @inline(__always) func sawPages(_ file: UInt16, _ host: UInt64, _ length: Int) {
        guard files[file].pages.isThere, !files[file].pages.holds(host, length) else { return }
        _ = look(file, host, length)
    }

    /// Looks whether pages are in memory, unless that is hardly likely.
    @inline(never) private func look(_ file: UInt16, _ host: UInt64, _ length: Int) -> Bool {
        guard backoff.shouldProbe(), !faults.isPaused else { return false }
        files[file].window?._withUnsafeGuaranteedRef { $0.look(host, length) }
        let found = files[file].pages.holds(host, length)
        backoff.record(found)
        return found
    }

    /// The same after a write, which leaves no doubt.
    @inline(__always) func wrotePages(_ host: UInt64, _ length: Int) {
        let pages = files[plainFile].pages
        guard pages.isThere, !pages.holds(host, length) else { return }
        files[plainFile].window?._withUnsafeGuaranteedRef { $0.wrote(host, length) }
    }
}
