// A rig that finds nothing may be a rig that cannot. This has a bug of the kind we hunt: a count out of the image,
// trusted in arithmetic. `run` fails unless the fuzzer finds it.

import DiskTypes
import FuzzKit
import QCOW2

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    guard let data, let image = try? QCOW2Image(reading: FuzzImage(data, count)) else { return 0 }
    if let bitmaps = image.extensions.bitmaps {
        require(UInt16(bitmaps.count) + 1 > 0, "never")  // the planted bug: traps above 65534
    }
    return 0
}
