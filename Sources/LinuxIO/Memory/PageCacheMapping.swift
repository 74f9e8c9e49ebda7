// A call into the file system costs more than the page that it moves, and writers of one file keep each other out
// there. A page that is in memory anyway can be reached through a mapping without either. Which pages are is what
// this file keeps: a touch of any other would make the thread wait for the disk.
import CQblk
import Glibc
import Synchronization

/// A file's pages in memory, seen through a shared mapping of the whole file. For any number of threads.
@safe public final class PageCacheMapping: Sendable {
    /// Belongs to the file whose window this is, and so lasts as long.
    private let fd: Int32
    private let address: UInt
    private let count: Int
    /// The file is on no disk, so that nothing has to be written back.
    private let populates: Bool
    /// A bit for each page that was seen in memory. Only a guess, and never a wrong answer: the kernel may have thrown
    /// the page out since, and then the touch brings it back.
    private let known: UInt
    private let knownBytes: Int
    /// A bit for each part of the mapping that costs a page of page table, and how many more may come to that.
    private nonisolated(unsafe) let parts: UnsafeMutablePointer<Atomic<UInt64>>
    private let partWords: Int
    private let partsLeft: Atomic<Int>

    private static let partShift: UInt64 = 21
    /// Page tables of at most 128 MiB: the kernel never gives them back while the mapping lasts.
    private static let mostParts = 32768
    private static let largest: UInt64 = 1 << 44

    /// Maps `room` bytes of the file, which may be more than it has yet. Nil where that cannot be, or would not do.
    init?(fd: Int32, room: UInt64, writable: Bool, inMemory: Bool) {
        let part = UInt64(1) << Self.partShift
        guard room > 0, room <= Self.largest, sysconf(Int32(_SC_PAGESIZE)) == MappedPages.size else { return nil }
        let bytes = Int((room + part - 1) & ~(part - 1))
        let access = writable ? PROT_READ | PROT_WRITE : PROT_READ
        guard let start = unsafe mmap(nil, bytes, access, MAP_SHARED | MAP_NORESERVE, fd, 0), unsafe start != MAP_FAILED
        else {
            return nil
        }
        let bitBytes = max(bytes >> (MappedPages.shift + 3), 4096)
        let bits = unsafe mmap(
            nil, bitBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let bits = unsafe bits, unsafe bits != MAP_FAILED else {
            unsafe munmap(start, bytes)
            return nil
        }
        // Random access: what is not there is fetched alone. Children have no use for it.
        unsafe madvise(start, bytes, MADV_RANDOM)
        unsafe madvise(start, bytes, MADV_DONTFORK)
        self.fd = fd
        populates = writable && inMemory
        address = UInt(bitPattern: start)
        count = bytes
        known = UInt(bitPattern: bits)
        knownBytes = bitBytes
        partWords = (bytes >> Int(Self.partShift) + 63) / 64
        unsafe parts = .allocate(capacity: partWords)
        for i in 0..<partWords { unsafe (parts + i).initialize(to: Atomic(0)) }
        partsLeft = Atomic(Self.mostParts)
        SIGBUSGuard.prepare()
    }

    deinit {
        unsafe munmap(UnsafeMutableRawPointer(bitPattern: address), count)
        unsafe munmap(UnsafeMutableRawPointer(bitPattern: known), knownBytes)
        unsafe parts.deallocate()
    }

    /// What the data path needs. Good as long as the window is.
    public var pages: MappedPages {
        unsafe MappedPages(
            base: UnsafeMutableRawPointer(bitPattern: address).unsafelyUnwrapped,
            known: UnsafeMutableRawPointer(bitPattern: known).unsafelyUnwrapped
                .assumingMemoryBound(to: Atomic<UInt64>.self),
            count: UInt64(count))
    }

    // MARK: what is in memory

    /// The bytes were moved to or from the file: looks which of their pages are in memory now. A page that the file ends
    /// in does not count: what is written there behind the end would be lost.
    public func look(_ offset: UInt64, _ length: Int) {
        let pages = self.pages
        var status = stat()
        guard pages.contains(offset, length), !pages.holds(offset, length), length <= Self.lookBytes,
            unsafe fstat(fd, &status) == 0
        else { return }
        // Neighbours are asked about in the same call: where one page is, the next ones mostly are.
        let whole = min(UInt64(clamping: status.st_size), pages.count) >> MappedPages.shift
        let first = (offset >> MappedPages.shift) & ~Self.neighbours
        let last = min((offset &+ UInt64(length) &- 1) >> MappedPages.shift | Self.neighbours, whole &- min(whole, 1))
        guard first <= last, first < whole else { return }
        unsafe withUnsafeTemporaryAllocation(
            of: UInt8.self, capacity: Self.lookBytes >> MappedPages.shift + 2 * Int(Self.neighbours + 1)
        ) { there in
            let start = unsafe pages.base + Int(first << MappedPages.shift)
            guard unsafe mincore(start, Int((last - first + 1) << MappedPages.shift), there.baseAddress) == 0 else {
                return
            }
            var isWhole = true
            for page in first...last {
                if unsafe there[Int(page - first)] & 1 != 0 && admit(page) { pages.add(page) } else { isWhole = false }
            }
            // One call for all of them costs less than a fault for each. (On a disk it would make them dirty.)
            if isWhole, populates {
                unsafe madvise(start, Int((last - first + 1) << MappedPages.shift), MADV_POPULATE_WRITE)
            }
        }
    }
    private static let lookBytes = 1 << 20
    /// Pages less one that are asked about together: as many as the kernel maps at once where one is read.
    private static let neighbours: UInt64 = 15

    /// Whether the bytes may be written through the mapping, pages that are not in memory among them: the file has them all,
    /// and the page table may have theirs.
    public func makeRoom(_ offset: UInt64, _ length: Int) -> Bool {
        var status = stat()
        guard pages.contains(offset, length), unsafe fstat(fd, &status) == 0,
            offset &+ UInt64(length) <= UInt64(clamping: status.st_size)
        else { return false }
        let parts = UInt64(1) << (Self.partShift - UInt64(MappedPages.shift))
        let last = (offset &+ UInt64(length) &- 1) >> MappedPages.shift
        var page = offset >> MappedPages.shift
        while page <= last {
            guard admit(page) else { return false }
            page = (page / parts + 1) * parts
        }
        return true
    }

    /// Whether the file is `end` bytes long or longer, as the system has it now.
    public func reaches(_ end: UInt64) -> Bool {
        var status = stat()
        return unsafe fstat(fd, &status) == 0 && end <= UInt64(clamping: status.st_size)
    }

    /// The bytes were written through the page cache: whole pages are in memory for certain.
    public func wrote(_ offset: UInt64, _ length: Int) {
        let pages = self.pages
        guard pages.contains(offset, length) else { return }
        var page = (offset &+ MappedPages.mask) >> MappedPages.shift
        let end = (offset &+ UInt64(length)) >> MappedPages.shift
        while page < end {
            if admit(page) { pages.add(page) }
            page += 1
        }
    }

    /// The pages are gone from memory, or are about to go.
    public func forget(_ offset: UInt64, _ length: UInt64) {
        let pages = self.pages
        guard offset < pages.count, length > 0 else { return }
        let last = min(length &- 1, pages.count &- 1 &- offset) &+ offset
        pages.remove(offset >> UInt64(MappedPages.shift), through: last >> UInt64(MappedPages.shift))
    }

    /// Memory is short. The kernel may have what is mapped; the bits go too, as pages of zeros.
    public func forgetAll() {
        unsafe madvise(UnsafeMutableRawPointer(bitPattern: known), knownBytes, MADV_DONTNEED)
        unsafe madvise(UnsafeMutableRawPointer(bitPattern: address), count, MADV_DONTNEED)
    }

    /// Whether the page's part of the page table is there, or may be.
    private func admit(_ page: UInt64) -> Bool {
        let part = page >> (Self.partShift - UInt64(MappedPages.shift))
        let (word, bit) = (Int(part / 64), UInt64(1) << (part % 64))
        if unsafe parts[word].load(ordering: .relaxed) & bit != 0 { return true }
        guard partsLeft.load(ordering: .relaxed) > 0 else { return false }
        if unsafe parts[word].bitwiseOr(bit, ordering: .relaxed).oldValue & bit == 0 {
            partsLeft.subtract(1, ordering: .relaxed)
        }
        return true
    }
}
