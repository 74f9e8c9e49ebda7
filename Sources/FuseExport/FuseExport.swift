// The target FuseExport.
