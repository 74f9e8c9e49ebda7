// A transfer that is not the whole of its request, or is that of several, needs a list of ranges of
// its own, which the kernel reads when it is submitted. Few transfers do, so the lists are few; who finds none waits.
import Glibc

/// Lists of `length` ranges each. Address space is taken for all of them, memory only for those ever used.
@safe struct IovecPool: BitwiseCopyable {
    let length: Int
    private let memory: UnsafeMutablePointer<iovec>
    private var list: FreeList<ListIndex>

    init(count: Int, length: Int) {
        self.length = length
        unsafe memory = .allocate(capacity: max(count * length, 1))
        list = FreeList<ListIndex>(count: count)
    }

    @inline(__always) var available: Int { list.available }
    @inline(__always) mutating func take() -> ListIndex { list.take() }
    @inline(__always) mutating func give(_ index: ListIndex) { list.give(index) }
    @inline(__always) subscript(_ index: ListIndex) -> UnsafeMutablePointer<iovec> {
        unsafe memory + index.position &* length
    }

    func free() {
        unsafe memory.deallocate()
        list.free()
    }
}
