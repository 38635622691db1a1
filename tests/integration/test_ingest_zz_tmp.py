import resource, time, os
import httpx2 as httpx
from tests.integration.test_ingest_uploads import ingest
from tests.integration.ingest_service import Ingest
from services.ingest.tasks import tasks
from shared.testing.ledger import run_due
import services.ingest.worker
def rss(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
def test_big(ingest, monkeypatch, capsys):
    monkeypatch.setenv("INGEST_MAX_UPLOAD_BYTES", "6000000000")
    ing = Ingest(ingest.database, ingest.folder)
    def body():
        with open('/tmp/ing/big.csv','rb') as f:
            while b := f.read(1<<20): yield b
    with capsys.disabled():
        print('\nload', open('/proc/loadavg').read().strip(), 'base rss', rss())
        t=time.time()
        with ing.serving() as port:
            r = httpx.post(f'http://127.0.0.1:{port}/v1/datasets?name=big', content=body(), headers={'Authorization': 'Bearer '+ing.app.token(ing.workspace), 'Content-Type':'text/csv'}, timeout=600)
        print('upload', r.status_code, round(time.time()-t,1), 's rss', rss())
        t=time.time(); run_due(ing.database, tasks)
        [job]=ing.jobs()
        print('job', job['state'], job['result'], round(time.time()-t,1),'s rss', rss(), open('/proc/loadavg').read().strip())
