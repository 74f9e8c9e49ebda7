// A page that the kernel has in memory is one copy away. A read copies it out of the mapping; a write lets the kernel copy
// from the file that the guest's memory is, into the mapping: unlike a write to the file it holds up no other writer, and
// unlike a copy of our own it cannot be cut short inside a sector by SIGKILL.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO

/// What the page cache needs of a file, without touching the class.
@safe struct PageCacheFile: TableRecord {
    typealias Index = UInt16

    /// The descriptor that data goes by.
    var data: Int32 = -1
    /// The page cache takes writes, and io_uring would hand each to a kernel thread: a plain call is cheaper.
    var writesInline = false
    /// The pages of `data` that can be reached without a call.
    var pages = MappedPages.none
    /// The longest write that goes by them, in bytes; 0: none does.
    var mappedWrite = 0
    /// The file is on no disk.
    var isMemory = false
    /// The mapping of the same pages, for what is rarer. The engine's chain keeps it.
    var window: Unmanaged<PageCacheMapping>?

    init() {}

    /// `isDirect`: the file's data goes past the page cache.
    /// `room`: how large the file may become, in bytes; nil when its pages are not wanted.
    init(_ file: HostFile, isDirect: Bool, room: UInt64?) {
        data = isDirect ? file.directFD : file.fd
        writesInline = !isDirect && file.isWritable
        isMemory = file.isTmpfs
        guard !isDirect, let room, let window = file.pages(room: room) else { return }
        pages = window.pages
        // The file system of a disk is asked about each page that becomes dirty; about a long write it is asked once.
        mappedWrite = writesInline ? file.isTmpfs ? PageCacheIO.mappedCopyLimit : 64 << 10 : 0
        unsafe self.window = unsafe Unmanaged.passUnretained(window)
    }
}

/// What came of a read by the page cache.
enum PageCacheRead {
    case done
    /// It is copied by `copyQueued`.
    case queued
    /// Not all pages are in memory; nothing that counts was done.
    case absent
}

/// Moves bytes of files whose pages are in memory. Never waits for a disk, as far as that can be told beforehand.
@safe struct PageCacheIO: ~Copyable {
    let files: RecordTable<PageCacheFile>
    /// The file of the active image's data, to which all writes go.
    let plainFile: UInt16
    var cut: CutMonitor
    var throttle = DirtyThrottleMonitor()
    var faults = MajorFaultMonitor()
    private var backoff = ResidencyProbeBackoff()
    private var batch = MappedReadBatch()
    /// Where the callers' memory comes from, as far as files can be read that it is.
    var sources = GuestMemoryFiles()
    /// Helps with long transfers, where there is one.
    let helper: CopyHelper?
    /// Ranges of memory of the one write that is under way.
    let list: UnsafeMutablePointer<iovec>
    /// Writes may be plain calls of this thread.
    var mayWrite = true
    /// Transfers by a mapping, without the ring.
    var mapped: UInt64 = 0
    /// Long transfers that two threads shared.
    var shared: UInt64 = 0

    /// The longest copy that may keep others waiting, in bytes.
    static let mappedCopyLimit = 256 << 10

    init(_ chain: ImageChain, maxIovecs: Int, helper: CopyHelper?) {
        files = RecordTable(count: chain.files.count, of: PageCacheFile())
        plainFile = chain.activeDataFile
        cut = CutMonitor(chain)
        self.helper = helper
        unsafe list = .allocate(capacity: maxIovecs)
    }

    mutating func free() {
        files.deallocate()
        sources.free()
        batch.free()
        unsafe list.deallocate()
    }

    // MARK: reads

    /// Reads a whole request of the plain file.
    @inline(__always) mutating func read(
        _ host: UInt64, _ base: UnsafeMutableRawPointer, _ length: Int, _ request: RequestIndex
    ) -> PageCacheRead {
        let pages = files[plainFile].pages
        guard pages.holds(host, length) else { return .absent }
        guard length <= MappedReadBatch.longest else { return unsafe readLong(host, base, length) }
        guard mayTouch(plainFile) else { return .absent }
        unsafe batch.push(request, PageCopy(from: pages, host, to: base, length))
        return .queued
    }

    @inline(never) private mutating func readLong(
        _ host: UInt64, _ base: UnsafeMutableRawPointer, _ length: Int
    ) -> PageCacheRead {
        unsafe read(RequestMemory(base: base), at: 0, length, plainFile, host) ? .done : .absent
    }

    /// Reads `length` bytes of a file into a request's memory from its byte `at` on. False: nothing that counts was done.
    mutating func read(
        _ memory: RequestMemory, at: Int, _ length: Int, _ file: UInt16, _ host: UInt64
    ) -> Bool {
        if moveTogether(memory, at: at, length, file, host, isWrite: false) { return true }
        guard let base = unsafe memory.base else { return false }
        return unsafe readMapped(file, host, base + at, length)
    }

    private mutating func readMapped(
        _ file: UInt16, _ host: UInt64, _ base: UnsafeMutableRawPointer, _ length: Int
    ) -> Bool {
        let pages = files[file].pages
        guard pages.holds(host, length), length <= PageCacheIO.mappedCopyLimit, mayTouch(file) else { return false }
        if unsafe pages.copy(host, to: base, length),
            unsafe !isCut(file, host, length, last: base.load(fromByteOffset: length &- 1, as: UInt8.self))
        {
            mapped &+= 1
            return true
        }
        forget(file, host, UInt64(length))
        return false
    }

    /// Whether bytes that were copied out of a mapping may be zeros that stand behind the end of a file that was cut. `last`:
    /// the last of them; whatever else the file lost before it was no page any more.
    @inline(__always) func isCut(_ file: UInt16, _ host: UInt64, _ length: Int, last: UInt8) -> Bool {
        last == 0 && !reaches(file, host &+ UInt64(truncatingIfNeeded: length))
    }

    /// Whether the file is so long that it has the byte before `end`.
    @inline(never) private func reaches(_ file: UInt16, _ end: UInt64) -> Bool {
        unsafe files[file].window?._withUnsafeGuaranteedRef { $0.reaches(end) } ?? false
    }

    // MARK: reads that wait for each other

    @inline(__always) var hasQueued: Bool { !batch.isEmpty }
    /// The queue has no room for another read.
    @inline(__always) var isQueueFull: Bool { batch.isFull }

    /// Does the copies that are queued. Requests whose bytes are there go to `done`; of those in `lost` the file does not
    /// have the bytes any more.
    @inline(never) mutating func copyQueued(
        done: inout IndexQueue<Request>, lost: inout IndexQueue<Request>, in requests: borrowing RecordTable<Request>
    ) {
        let count = batch.count
        batch.clear()
        var first = 0
        while first < count {
            let copied = unsafe PageCopy.run(batch.copies + first, count &- first)
            let end = batch.lastByteInDoubt(first, copied, in: files[plainFile].pages)
            if end == 0 || reaches(plainFile, end) {
                for i in 0..<copied {
                    unsafe requests[batch.requests[first &+ i]].state = .finished
                    unsafe done.push(batch.requests[first &+ i], in: requests)
                }
                mapped &+= UInt64(truncatingIfNeeded: copied)
            } else {
                for i in 0..<copied { unsafe lost.push(batch.requests[first &+ i], in: requests) }
                forgetAll(plainFile)
            }
            first &+= copied
            if first < count {
                unsafe lost.push(batch.requests[first], in: requests)
                forgetAll(plainFile)
                first &+= 1
            }
        }
    }

    // MARK: which pages are in memory

    /// Whether most of what the guest uses is in reach of a mapping.
    var seesPages: Bool { files[plainFile].pages.isThere }

    @inline(__always) mutating func mayTouch(_ file: UInt16) -> Bool {
        switch faults.ask() {
        case .calm: return true
        case .paused: return false
        case .waited:
            forgetAll(file)
            return false
        }
    }

    /// A transfer between the file and memory went well: its pages may be in memory now.
    @inline(__always) mutating func sawPages(_ file: UInt16, _ host: UInt64, _ length: Int) {
        guard files[file].pages.isThere, !files[file].pages.holds(host, length) else { return }
        _ = look(file, host, length)
    }

    /// Looks whether pages are in memory, unless that is hardly likely.
    @inline(never) mutating func look(_ file: UInt16, _ host: UInt64, _ length: Int) -> Bool {
        guard backoff.shouldProbe(), !faults.isPaused else { return false }
        unsafe files[file].window?._withUnsafeGuaranteedRef { $0.look(host, length) }
        let found = files[file].pages.holds(host, length)
        backoff.record(found)
        return found
    }

    /// The same after a write, which leaves no doubt.
    @inline(__always) func wrotePages(_ host: UInt64, _ length: Int) {
        let pages = files[plainFile].pages
        guard pages.isThere, !pages.holds(host, length) else { return }
        unsafe files[plainFile].window?._withUnsafeGuaranteedRef { $0.wrote(host, length) }
    }

    /// The pages are gone from memory, or are about to go.
    func forget(_ file: UInt16, _ host: UInt64, _ length: UInt64) {
        unsafe files[file].window?._withUnsafeGuaranteedRef { $0.forget(host, length) }
    }

    @inline(never) private func forgetAll(_ file: UInt16) {
        unsafe files[file].window?._withUnsafeGuaranteedRef { $0.forgetAll() }
    }
}

/// Reads whose pages are in memory wait for each other: then the processor can look for all their pages at once, which takes
/// longer than the rest of a request when it is done one by one. These are copies out of the mapping of one file, each a whole
/// request.
@safe struct MappedReadBatch: BitwiseCopyable {
    static let limit = 16
    /// The longest copy that is put off, in bytes: longer ones find their pages meanwhile.
    static let longest = 16 << 10
    let copies: UnsafeMutablePointer<PageCopy>
    let requests: UnsafeMutablePointer<RequestIndex>
    private(set) var count = 0

    init() {
        unsafe copies = unsafe slab(MappedReadBatch.limit, of: PageCopy())
        unsafe requests = unsafe slab(MappedReadBatch.limit, of: .none)
    }
    func free() {
        unsafe copies.deallocate()
        unsafe requests.deallocate()
    }

    @inline(__always) var isEmpty: Bool { count == 0 }
    @inline(__always) var isFull: Bool { count == MappedReadBatch.limit }

    @inline(__always) mutating func push(_ request: RequestIndex, _ copy: PageCopy) {
        unsafe copies[count] = copy
        unsafe requests[count] = request
        count &+= 1
    }
    @inline(__always) mutating func clear() { count = 0 }

    /// The position in the file up to which it must reach for `count` copies to be its bytes; 0: they are for certain.
    @inline(__always) func lastByteInDoubt(_ first: Int, _ count: Int, in pages: MappedPages) -> UInt64 {
        var end: UInt64 = 0
        for i in first..<first &+ count where unsafe copies[i].endsInZero {
            end = unsafe max(end, copies[i].end(in: pages))
        }
        return end
    }
}
